"""How a run goes to a tracker: what is read from its folder, and a module for each tracker."""

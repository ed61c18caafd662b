"""How fast podrl is and would be. Nothing else imports it."""

"""The processes of one job: how they find each other, agree, and notice that one is lost."""

"""The processes of one job: how they find each other, agree, and notice a lost process."""

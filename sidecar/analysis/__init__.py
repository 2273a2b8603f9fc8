"""Analysis: why operations fail (incidents, diagnoses, rules) and what works (the playbook)."""

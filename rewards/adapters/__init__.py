"""The reward service as other trainers' reward function: ``trl.py``, ``verl.py``. Neither trainer is imported here."""

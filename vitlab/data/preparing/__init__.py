"""The parts of `vitlab data prepare`: safe remedies for data as they were downloaded."""

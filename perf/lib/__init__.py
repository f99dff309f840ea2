"""What the scripts in perf/ have in common. Standard library only; Python 3.11 or newer."""

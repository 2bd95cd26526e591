"""What runs inside a jail: the trusted runner and the programs that it forks. Standard library only."""

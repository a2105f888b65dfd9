"""`parrot bench engine`: the torch engine by itself, through its port, in this process."""

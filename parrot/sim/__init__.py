"""The service on a virtual clock: the same core, scheduler and executor, with engines that only cost time."""

"""The networks side by side on this machine: size, multiply-adds, time, memory."""

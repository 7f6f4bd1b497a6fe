import os

# The tests' tensors are small: more compute threads, in this process or in the commands it starts, spend their time
# spinning, and several times as much of it when the machine is busy. Read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

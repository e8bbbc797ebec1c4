"""`rbeerouter agent`: a program on a GPU machine that registers its engines and tells what the machine measures."""

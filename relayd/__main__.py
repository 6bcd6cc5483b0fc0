"""`python -m relayd` is `relayd`."""

from relayd.cli import main

if __name__ == "__main__":
    main(prog_name="relayd")

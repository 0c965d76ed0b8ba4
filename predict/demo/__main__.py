import os
import signal

if __name__ == "__main__":  # else this is one of `reading`'s processes, which need none of that
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # as in the stages' frame
    from predict.demo.server import main
    from stages.common import errors

    errors.run(main)

import os
import signal

if __name__ == "__main__":
    # Ctrl+C ends quietly, also during the imports below and while a thread reads a picture.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from predict.demo.server import main
    from stages.runtime import errors

    errors.run_command(main)

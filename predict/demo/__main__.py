if __name__ == "__main__":  # else this is one of `reading`'s processes, which need none of that
    from predict.demo.server import main
    from stages.common import errors

    errors.run(main)

"""What one client, or many, may ask of the demo."""

SECONDS = 20  # for a request's headers, as many for its body, for each picture to be read
MAX_BYTES = 10_000_000  # of a request's body
# A client that is cut off while it sends does not see the answer: a body too long is read, and
# dropped, this far.
MAX_DROPPED = 100_000_000
MAX_HELD = 100_000_000  # bytes of all bodies that are not answered yet,
SMALL = 64_000  # but a body as small as a drawing's always fits
PROCESSES = 4  # that read pictures; each takes up to 300 MB for a large one
CONNECTIONS = 256
OTHER_FILES = 64  # that the server opens itself: fewer connections where `ulimit -n` is low
RETRY = {"Retry-After": "5"}  # seconds

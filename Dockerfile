# The pipeline with its packages: docs/container.md
FROM debian:bookworm-slim AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home user
USER user

FROM base
# The build of torch without CUDA's gigabytes; empty: PyPI's, for a GPU
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN mkdir -p /home/user/.cache /home/user/pipeline/.dvc/cache
WORKDIR /home/user/pipeline
# Changed code does not install the packages again.
COPY --chown=user Makefile requirements.txt ./
COPY --chown=user stages/requirements.txt stages/
COPY --chown=user tools/folder_lock.sh tools/install.sh tools/site_cache.sh tools/venv.sh tools/
RUN PIP_NO_CACHE_DIR=1 make install
COPY --chown=user . .
ENV PATH=/home/user/pipeline/.venv/bin:$PATH
# DVC needs an author where `make run` has to fall back to the embedded digits.
RUN git config --global user.name user && git config --global user.email user@localhost \
    && sh tools/site_cache.sh
CMD ["make", "run"]

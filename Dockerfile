# matrpo for CPUs, for `matrpo cluster render kubernetes --image ...`:
#
#     docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of CPU wheels> -t matrpo .
#
# Without the argument pip takes the torch that brings CUDA along, several gigabytes of it.
# With Google Research Football, which has to be compiled (docs/football.md), `--target football` besides.
FROM python:3.11-slim-bookworm AS matrpo
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN pip install --no-cache-dir /source -c /source/constraints.txt && rm -r /source
USER 10001:10001
ENTRYPOINT ["matrpo"]

# The engine, as a wheel, by Debian 12's Boost and Python 3.11.
FROM python:3.11-slim-bookworm AS football-wheel
RUN apt-get update && apt-get install -y --no-install-recommends \
    build-essential cmake libgl1-mesa-dev libegl1-mesa-dev libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev \
    libsdl2-gfx-dev libboost-python1.74-dev libboost-thread1.74-dev libboost-filesystem1.74-dev \
    libboost-system1.74-dev python3-dev
RUN pip install --no-cache-dir setuptools wheel psutil
RUN pip wheel --no-deps --no-build-isolation --no-binary gfootball --wheel-dir /wheels gfootball==2.10.2

FROM matrpo AS football
USER 0:0
RUN apt-get update && apt-get install -y --no-install-recommends \
    libgl1 libegl1 libsdl2-2.0-0 libsdl2-image-2.0-0 libsdl2-ttf-2.0-0 libsdl2-gfx-1.0-0 libboost-python1.74.0 \
    libboost-thread1.74.0 libboost-filesystem1.74.0 && rm -r /var/lib/apt/lists/*
COPY --from=football-wheel /wheels /wheels
# What it declares besides draws, or has windows and keyboards.
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels \
    && pip install --no-cache-dir absl-py gym==0.26.2 opencv-python-headless six
USER 10001:10001

# What is built where nothing else is asked for.
FROM matrpo

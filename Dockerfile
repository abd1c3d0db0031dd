# matrpo for CPUs, for `matrpo cluster render kubernetes --image ...`:
#
#     docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of CPU wheels> -t matrpo .
#
# Without the argument pip takes the torch that brings CUDA along, several gigabytes of it.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN pip install --no-cache-dir /source -c /source/constraints.txt && rm -r /source
USER 10001:10001
ENTRYPOINT ["matrpo"]

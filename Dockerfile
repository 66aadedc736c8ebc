# Soil moisture maps on the CPU. Build it in the source folder, then mount a folder for inputs and maps:
#
#   docker build -t mmnet .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" mmnet map --aoi fields.gpkg --date 2021-08-08 --stack stack.zarr
FROM python:3.11-slim-bookworm AS build
# PyTorch without CUDA, which is several GB smaller; give an empty argument for the default build.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY . .
RUN python -m venv /opt/mmnet \
    && /opt/mmnet/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        ".[batch,earthengine,open,remote,serve,zones]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/mmnet /opt/mmnet
ENV PATH=/opt/mmnet/bin:$PATH HOME=/tmp MMNET_CACHE=/tmp/mmnet
RUN useradd --no-create-home --uid 1000 mmnet && mkdir /data && chown mmnet /data
USER 1000:1000
WORKDIR /data
RUN mmnet --version
ENTRYPOINT ["mmnet"]
CMD ["--help"]

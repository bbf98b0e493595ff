# Four images of one file; docs/deploy-docker.md says how to build and run them.
#
#   gateway   the API                       port 8000
#   webui     the page                      port 7860
#   cpu       inference on the CPU          port 8080; it prepares models for a card, too
#   app       everything on one host        port 7860
#
# Packages come from requirements.lock with its hashes. A folder of wheels replaces the network:
#   docker build -f Dockerfile.app --target gateway --build-context wheelhouse=FOLDER --build-arg SYSTEM_PACKAGES= .
ARG BASE=python:3.11-slim-bookworm

# --- what is installed, and how; nothing of this stays

FROM scratch AS wheelhouse
WORKDIR /

FROM ${BASE} AS tools
ARG PYTHON=python3
# An index in the place of PyPI; what comes from it is compared with the hashes all the same.
ARG PIP_INDEX_URL=
WORKDIR /src
COPY requirements.lock pyproject.toml ./
# Every wheel is compared with its hash here; what is installed below is taken from these files alone. The pip that
# Python brings along starts it, since Text Generation Inference's Python has none of its own.
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    --mount=type=cache,target=/root/.cache/pip \
    if ls /wheelhouse/*.whl >/dev/null 2>&1; then offline="--no-index --find-links /wheelhouse"; fi && \
    ${PYTHON} -m venv /opt/pip && \
    /opt/pip/bin/python -m pip download --quiet --require-hashes --no-deps --only-binary :all: $offline -r requirements.lock -d /wheels && \
    /opt/pip/bin/python -m pip install --quiet --no-index --find-links /wheels --upgrade pip
# usage: install GROUP; a group of pyproject.toml into /opt/venv, without pip unless the group names it. The packages'
# own tests stay out. Bytecode without dates in it: two builds give the same files.
RUN printf '%s\n' '#!/bin/sh -e' \
    "${PYTHON} -m venv --without-pip /opt/venv" \
    '/opt/pip/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-index --no-compile \' \
    '  --find-links /wheels --group "pyproject.toml:$1"' \
    'find /opt/venv -depth -type d -name tests -exec rm -r {} +' \
    'cd /wheels && sha256sum *.whl >/opt/venv/wheels.sha256' \
    'compile /opt/venv' >/usr/local/bin/install-group && \
    printf '%s\n' '#!/bin/sh -e' \
    'exec /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash "$1"' >/usr/local/bin/compile && \
    chmod +x /usr/local/bin/install-group /usr/local/bin/compile

# `make wheelhouse` takes the wheels out.
FROM scratch AS wheels
COPY --from=tools /wheels /

FROM tools AS gateway-packages
RUN --network=none install-group gateway
COPY gateway /app/gateway
COPY known_settings.py /app/
RUN --network=none compile /app

FROM tools AS webui-packages
RUN --network=none install-group webui
COPY webui /app/webui
COPY known_settings.py /app/
RUN --network=none compile /app

FROM tools AS cpu-packages
RUN --network=none install-group inference
COPY inference /app/inference
COPY known_settings.py /app/
RUN --network=none compile /app

FROM tools AS app-packages
RUN --network=none install-group app
COPY gateway /app/gateway
COPY hosting /app/hosting
COPY inference /app/inference
COPY webui /app/webui
COPY app.py known_settings.py /app/
RUN --network=none compile /app

# --- what the images share: one user without rights, folders for volumes, nothing else to write

FROM ${BASE} AS common
ARG BASE
# `make images` adds the labels of version and revision last, so a new commit builds no layer anew for them.
LABEL org.opencontainers.image.description="InternLM2 chat models online: inference, gateway, web UI" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing gives its caller more rights, and the base image's own pip goes. Text Generation Inference's image keeps its
# Python under /root, which that user has to reach.
RUN (getent passwd 1000 >/dev/null || useradd --uid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin app) && \
    install -d -m 0700 -o 1000 -g 1000 /data /models /launch /webui && \
    install -d -m 0750 -o 1000 -g 1000 /metrics && \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} + && \
    rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/lib/python3.*/site-packages/* && \
    if [ -d /root/.local/share/uv ]; then chmod a+x /root /root/.local /root/.local/share; fi
COPY LICENSE /app/LICENSE
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HOST=0.0.0.0 \
    DATA_DIR=/data \
    MODELS_DIR=/models
WORKDIR /app
ENTRYPOINT []

FROM common AS with-git
ARG SYSTEM_PACKAGES="git git-lfs"
# For models from git repositories (OpenXLab).
RUN if [ -n "${SYSTEM_PACKAGES}" ]; then \
      apt-get update -qq && \
      DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ${SYSTEM_PACKAGES} >/dev/null && \
      rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*; \
    fi

# --- the images

FROM common AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --from=gateway-packages /app /app
LABEL org.opencontainers.image.title="internlm-stack gateway"
ENV PORT=8000
EXPOSE 8000
USER 1000:1000
VOLUME /data
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["python", "-m", "gateway", "serve"]

FROM common AS webui
COPY --from=webui-packages /opt/venv /opt/venv
COPY --from=webui-packages /app /app
LABEL org.opencontainers.image.title="internlm-stack webui"
ENV PORT=7860 \
    WEBUI_API_KEY_FILE=/webui/webui.key \
    WEBUI_SECRET_FILE=/webui/webui.secret \
    WEBUI_USERS_FILE=/webui/webui.users
EXPOSE 7860
USER 1000:1000
VOLUME /webui
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET /robots.txt HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["python", "-m", "webui"]

FROM with-git AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --from=cpu-packages /app /app
LABEL org.opencontainers.image.title="internlm-stack cpu"
ENV INFERENCE_ENGINE=llamacpp \
    INFERENCE_LISTEN=0.0.0.0:8080
EXPOSE 8080
USER 1000:1000
VOLUME /data /models
# 503 until the model is loaded; the first start fetches it, too.
HEALTHCHECK --interval=15s --timeout=5s --start-period=1800s --start-interval=1s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["python", "-m", "inference", "serve"]

FROM with-git AS app
COPY --from=app-packages /opt/venv /opt/venv
COPY --from=app-packages /app /app
LABEL org.opencontainers.image.title="internlm-stack app"
ENV PORT=7860
EXPOSE 7860
USER 1000:1000
VOLUME /data /models
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["python", "app.py"]

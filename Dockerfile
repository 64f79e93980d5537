# `twins serve` and `twins verify` on a CPU: docs/serve.md
FROM python:3.12-slim
WORKDIR /build
COPY requirements*.txt pyproject.toml setup.py README.md ./
COPY tests/requirements.txt tests/
COPY params params
COPY dcal_core dcal_core
RUN pip install --no-cache-dir -r dcal_core/deploy/assets/requirements.txt -r requirements-page.txt
RUN pip install --no-cache-dir --no-deps .
RUN useradd --create-home twins
USER twins
WORKDIR /home/twins
ENV GRADIO_TEMP_DIR=/tmp/gradio MPLCONFIGDIR=/tmp/matplotlib
EXPOSE 7860
ENTRYPOINT ["twins"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "7860"]

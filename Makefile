# Every target calls one script in scripts/; `make` alone prints this help.
.DEFAULT_GOAL := help
DATA ?=
# Variables of the image targets; scripts/image-names sets those that are empty.
export BACKEND ?= torch
export DEVICE ?= cpu
export CUDA ?=
export VERSION ?=
export PLATFORM ?=
export BASE_IMAGE ?=
export REGISTRY ?=
export REGION ?=

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: BACKEND=torch DEVICE=cpu|cuda CUDA= PLATFORM=linux/amd64|linux/arm64 VERSION= BASE_IMAGE= REGISTRY= REGION="

.PHONY: demo
demo: ## Train, serve and query a classifier (DATA=folder of class folders for your own images)
	@scripts/demo "$(DATA)"

.PHONY: demo-docker
demo-docker: ## The same with both images and docker run
	@scripts/demo-docker "$(DATA)"

.PHONY: install
install: ## Make .venv with everything for development
	@scripts/install

.PHONY: docs
docs: ## Serve the documentation as a site on http://127.0.0.1:8000/
	@scripts/site serve

.PHONY: test
test: ## Run the tests
	@scripts/test

.PHONY: test-backends
test-backends: ## Test the TensorFlow and MXNet backends and the oldest Python, each in its own environment (minutes)
	@scripts/test-backends

.PHONY: test-backends-quick
test-backends-quick: ## The same without what takes each framework minutes; CI runs it
	@scripts/test-backends quick

.PHONY: test-survival
test-survival: ## Kill, stop and resume training jobs, on one host and on several (minutes)
	@scripts/test-survival

.PHONY: test-benchmarks
test-benchmarks: ## Run each benchmark and the device check in their quickest form (2 minutes)
	@scripts/test-benchmarks

.PHONY: test-photographs
test-photographs: ## Train on real photographs and check the documented accuracies (minutes)
	@scripts/test-photographs

.PHONY: test-attacks
test-attacks: ## Attack a server of this checkout and check its goals (2 minutes)
	@scripts/benchmark attacks --quick

.PHONY: test-fuzz
test-fuzz: ## Give the product 10,000 generated data sets and models, and account for every image (minutes)
	@scripts/benchmark fuzz

.PHONY: test-container
test-container: ## Build the CPU images and the CUDA serve image, test them with docker run (minutes)
	@scripts/test-container

.PHONY: test-cuda-images
test-cuda-images: ## Build all CUDA images and test them, without a GPU (15 to 30 minutes, 30 GB of disk space)
	@scripts/test-cuda-images

.PHONY: test-local-mode
test-local-mode: ## Train, deploy and transform with SageMaker's SDKs v2 and v3 in local mode (minutes)
	@scripts/test-local-mode

.PHONY: test-local-mode-quick
test-local-mode-quick: ## The same without what is marked thorough; CI runs it
	@scripts/test-local-mode quick

.PHONY: test-registry
test-registry: ## Test login, push, sbom, buildspec and docker run with a local registry (minutes)
	@scripts/test-registry

.PHONY: check
check: ## Lint, format, types, spelling
	@scripts/check

.PHONY: fix
fix: ## Format, fix what can be fixed, write the generated pages
	@scripts/fix

.PHONY: build
build: ## Build the train and the serve image
	@scripts/build train serve

.PHONY: build-train
build-train: ## Build the train image of BACKEND
	@scripts/build train

.PHONY: build-serve
build-serve: ## Build the serve image
	@scripts/build serve

.PHONY: login
login: ## Log Docker in to the Amazon ECR registry of your account (or REGISTRY)
	@scripts/login

.PHONY: create-repository
create-repository: ## Create the images' ECR repositories if they do not exist
	@scripts/create-repository

.PHONY: push
push: ## Push both images to REGISTRY (default: your account's ECR in REGION)
	@scripts/push

.PHONY: sbom
sbom: ## Write the images' SBOMs and license texts to dist/
	@scripts/sbom

.PHONY: scan
scan: ## Look for known vulnerabilities in the images, with grype, trivy, or debsbom and pip-audit
	@scripts/scan

.PHONY: sign
sign: ## Sign the pushed images and attest their SBOMs, with cosign or notation
	@scripts/sign

.PHONY: clean
clean: ## Remove everything that the other targets make
	@scripts/clean

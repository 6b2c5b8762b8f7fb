# Every target calls one script in scripts/; `make` alone prints this help.
.DEFAULT_GOAL := help
DATA ?=

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Train, serve and query a classifier (DATA=folder of class folders for your own images)
	@scripts/demo "$(DATA)"

.PHONY: install
install: ## Make .venv with everything needed to develop
	@scripts/install

.PHONY: test
test: ## Run the tests
	@scripts/test

.PHONY: test-photographs
test-photographs: ## Train on real photographs and hold the promised figures (minutes)
	@scripts/test-photographs

.PHONY: check
check: ## Lint, format, types, spelling
	@scripts/check

.PHONY: fix
fix: ## Format and repair what can be repaired
	@scripts/fix

.PHONY: clean
clean: ## Remove what the other targets made
	@scripts/clean

"""From an invocation to its answer; never imports training or a backend."""

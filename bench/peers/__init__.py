"""What the benchmarks compare with, each in its own process: configuration files, and programs that import no nono."""

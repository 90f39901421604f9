"""What the tests share: the table of cases, the reference, models and runners."""

# For what runs for an instant: most of its time is that of compiling it.
COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

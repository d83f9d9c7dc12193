"""Graph → simplify → roll → grad → schedule → emit: everything between a recorded loss and a kernel's body."""

from jitgrad.compiler import ops as ops  # fills the table

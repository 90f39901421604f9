"""Which outputs of a traced program are inputs, handed on as they are."""

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def forwarded(jaxpr):
    """For each output of an open jaxpr the number of the input that it is, or None.

    Seen through are calls, loops that carry a value on, loops over slices that give each slice
    back, and branches that agree: what the lifted transforms of Flax make of an unchanged variable.
    """
    source = {variable: number for number, variable in enumerate(jaxpr.invars)}

    def of(variable):
        return None if isinstance(variable, Literal) else source.get(variable)

    for equation in jaxpr.eqns:
        operands = [of(variable) for variable in equation.invars]
        for variable, number in zip(equation.outvars, _operands_of_outputs(equation)):
            origin = None if number is None else operands[number]
            if origin is not None:
                source[variable] = origin
    return [of(variable) for variable in jaxpr.outvars]


def _operands_of_outputs(equation):
    """For each output of an equation the number of the operand that it is, or None."""
    name, params = equation.primitive.name, equation.params
    if name in ("name", "copy", "copy_p", "optimization_barrier"):
        return list(range(len(equation.outvars)))
    if name == "scan":
        return _loop(forwarded(params["jaxpr"].jaxpr), *scan_sizes(equation))
    if name == "while":
        inside = forwarded(params["body_jaxpr"].jaxpr)
        body = _loop(inside, params["body_nconsts"], len(inside))
        skipped = params["cond_nconsts"]
        return [None if number is None else number + skipped for number in body]
    if name == "cond":
        branches = zip(*(forwarded(branch.jaxpr) for branch in params["branches"]))
        return [numbers[0] + 1 if _agree(numbers) else None for numbers in branches]
    for program in params.values():
        program = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        if isinstance(program, Jaxpr) and len(program.invars) == len(equation.invars):
            return forwarded(program)
    return [None] * len(equation.outvars)


def scan_sizes(equation):
    """How many constants and how many carried values a scan has; JAX's own names for it change."""
    body = equation.params["jaxpr"].jaxpr

    def stacked(outside, inside):
        return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside))

    num_carry = len(equation.outvars) - stacked(equation.outvars, body.outvars)
    slices = stacked(equation.invars, body.invars)
    return len(equation.invars) - slices - num_carry, num_carry


def _loop(inside, num_consts, num_carry):
    """Of the outputs of a loop, from those of its body: a carry has to stay where it is."""
    return [
        found if found is not None and _same_place(place, found, num_consts, num_carry) else None
        for place, found in enumerate(inside)
    ]


def _same_place(place, found, num_consts, num_carry):
    if place < num_carry:
        return found == num_consts + place
    return found >= num_consts + num_carry


def _agree(numbers):
    return numbers[0] is not None and len(set(numbers)) == 1

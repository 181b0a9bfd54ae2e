"""The HTTP request that a call becomes, built from a tool's templates."""

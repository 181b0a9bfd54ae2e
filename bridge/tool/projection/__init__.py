"""JMESPath projections of replies, with a budget of steps and memory."""

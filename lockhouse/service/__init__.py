"""The HTTP service: routes and pages. They call operations, which authorise, audit and act."""

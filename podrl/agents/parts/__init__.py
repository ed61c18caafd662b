"""What agents share: acting, normalisation, the guard against numbers that are not finite."""

"""Provision and operate the stack: env files, the compiler and operator commands."""

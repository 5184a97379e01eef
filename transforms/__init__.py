"""Pure functions: frames and bytes in, frames and bytes out. No files, no clock, no environment."""

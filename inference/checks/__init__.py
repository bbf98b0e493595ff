"""What `verify` looks at, one kind of thing each; all of it is small: heads of files and settings, never weights."""

"""What Python programs use: `purifyctl.Purifier`, `purifyctl.Engine`, `purifyctl.PurifyTransform`, and
`purifyctl.api.art.ArtPurifier`.

Everything else in the package serves the command line, and may change without notice.
"""

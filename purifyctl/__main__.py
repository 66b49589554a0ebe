from purifyctl.cli import main

main()

"""The command line (extra ``cli``); `macula_trio._cli.main` is its entry."""

"""Token texts that have broken pages and terminals before.

Markup, script ends, bidirectional text and overrides, control sequences, half characters, nothing, blanks, terminal
markup, combining marks, very long tokens.
"""

HOSTILE = [
    "<s>",
    "</script><script>document.title='owned'</script>",
    "<!--",
    "<img src=x onerror=\"document.title='owned'\">",
    " \"quoted\" 'single' &amp; & `tick`",
    "",
    " ",
    "\n",
    "\n\n  ",
    "\t",
    "\r\n",
    "\u200b",
    "\u2028",
    "\u202eevil",
    "\x1b[31mred\x07",
    "\x00",
    "\ufffd",
    " שלום",
    " مرحبا",
    "👩\u200d🚀",
    "🙂",
    "\u0301",
    " 日本語",
    "[bold red]markup[/]",
    "${jndi}",
    "=" * 90,
    "\ud83d",
    "Ġword",
]

"""One pass, or many steps of decoding: read sites, edit them, differentiate, measure."""

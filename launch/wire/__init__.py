"""What goes over sockets: message formats, channels, links, authentication."""

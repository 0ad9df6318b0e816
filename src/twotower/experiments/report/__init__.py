"""Reports: pages of HTML that need nothing but themselves, their pictures, and tables for the terminal."""

"""How the tour prints: what was asked, what came back."""

import shutil
import sys
import textwrap

WIDTH = min(shutil.get_terminal_size((100, 24)).columns, 100)
BOLD, FAINT, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def title(text):
    print(f"\n{BOLD}{text}{PLAIN}\n")


def asked(request, detail=""):
    print(f"  {FAINT}{request}{PLAIN}")
    if detail:
        paragraph(detail, indent="  ")


def answered(text):
    paragraph(text, indent="    ")


def checked(text):
    paragraph(f"✓ {text}", indent="    ", hanging="      ")


def paragraph(text, indent="", hanging=None):
    for line in str(text).splitlines() or [""]:
        print(textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=hanging or indent) if line else "")


def excerpt(text, length=160):
    """One line, cut at a word."""
    return textwrap.shorten(text, length, placeholder=" …")


def table(head, rows, indent="    "):
    """Columns as wide as needed; those of numbers to the right."""
    columns = list(zip(head, *rows))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    right = [all(isinstance(cell, (int, float)) for cell in column[1:]) for column in columns]
    for row in (head, *rows):
        cells = zip((str(cell) for cell in row), widths, right)
        print((indent + "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in cells)).rstrip())


def streamed(pieces):
    """Prints text as it arrives and returns it whole."""
    print("    ", end="")
    column, whole = 4, ""
    for piece in pieces:
        whole += piece
        for character in piece:
            if character == "\n" or (character == " " and column > WIDTH - 12):
                print("\n    ", end="")
                column = 4
            else:
                print(character, end="")
                column += 1
        sys.stdout.flush()
    print()
    return whole


def megabytes(count):
    return f"{count / 1e6:,.0f} MB"

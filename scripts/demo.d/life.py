"""Conway's game of life on a torus: prints how many cells live every hundred generations, writes the last board.

usage: life.py GENERATIONS FILE
"""

import random
import sys

SIZE = 128


def next_generation(board):
    rows = []
    for y in range(SIZE):
        above, here, below = board[y - 1], board[y], board[(y + 1) % SIZE]
        row = []
        for x in range(SIZE):
            right = (x + 1) % SIZE
            around = (above[x - 1] + above[x] + above[right] + here[x - 1] + here[right]
                      + below[x - 1] + below[x] + below[right])
            row.append(1 if around == 3 or (around == 2 and here[x]) else 0)
        rows.append(row)
    return rows


def main():
    generations, path = int(sys.argv[1]), sys.argv[2]
    chance = random.Random(2)
    board = [[chance.randrange(2) for _ in range(SIZE)] for _ in range(SIZE)]
    for generation in range(generations):
        if generation % 100 == 0:
            print(generation, sum(map(sum, board)))
        board = next_generation(board)
    with open(path, "w") as file:
        file.writelines("".join(".#"[cell] for cell in row) + "\n" for row in board)


main()

# Which number below LIMIT takes the most steps to 1, halved if even, else tripled and one added? Prints each that takes
# more than all before it.
#
# usage: collatz.pl LIMIT
use strict;
use warnings;

my $most = 0;
for my $start (1 .. $ARGV[0]) {
    my ($n, $steps) = ($start, 0);
    while ($n != 1) {
        $n = $n % 2 ? 3 * $n + 1 : $n / 2;
        $steps++;
    }
    if ($steps > $most) {
        $most = $steps;
        print "$start $steps\n";
    }
}

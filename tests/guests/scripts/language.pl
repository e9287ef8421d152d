# Perl's hashes, patterns, formats, sorting, errors and packing.
use strict; use warnings; use List::Util qw(sum max shuffle); use POSIX qw(floor); use Data::Dumper;
my %count; $count{$_ % 17} += $_ for 1 .. 5000;
print join(",", map { "$_=$count{$_}" } sort { $a <=> $b } keys %count), "\n";
my $text = "The year 1999 and 2024, not 12345 or 99."; my @years = $text =~ /\b(\d{4})\b/g;
print "@years ", sum(@years), " ", scalar reverse("abc"), " ", lc("ABC"), "\n";
(my $copy = $text) =~ s/(\w+)/ucfirst $1/ge; print "$copy\n";
printf "%.10f %s %e %b\n", atan2(1, 1) * 4, 2 ** 64, 1 / 3, 37;
my @sorted = sort { length $a <=> length $b or $a cmp $b } map { "x" x ($_ * 7 % 5) . $_ } 1 .. 12;
print "@sorted\n"; eval { die { code => 42 } }; print "died $@->{code}\n";
local $Data::Dumper::Sortkeys = 1; local $Data::Dumper::Indent = 1;
print Dumper({ list => [1, [2, 3]], text => "a\tb" }); print join("|", unpack("A2 n N", "hi\x01\x02\x00\x00\x00\x07")), "\n";
open(my $file, "<", \"one\ntwo\n") or die; my @lines = <$file>; print scalar(@lines), "\n"; exit 9;

// Package report makes one HTML page of results of package bench: what was run and what the targets promise, ratios to the first target with
// their intervals, and plots of rates, latencies, CPU and scaling. The page needs nothing else: plots are SVG inside it, and there is no script.
//
// Quantities of different phases differ by orders of magnitude, so axes are logarithmic and values are dots, not bars: a bar's length would
// mean nothing on such an axis. A dot is the geometric mean of the repeats, its whiskers the least and the most of them; in the plot of
// ratios they are the interval of confidence.
package report

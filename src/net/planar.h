// Copies between blocked maps and planar arrays [images][channels][pixels], of all images of a pass, by its threads.
#ifndef NET_PLANAR_H
#define NET_PLANAR_H

#include "net/layer.h"

void planar_from_map(const struct pass *pass, const float *map, struct shape shape, float *planar);
// map = planar, or map += planar.
void planar_to_map(const struct pass *pass, const float *planar, struct shape shape, float *map, bool accumulate);

#endif

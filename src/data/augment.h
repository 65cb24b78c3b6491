// What is seen of a picture: the crop for evaluation, and the random changes of training. All randomness comes from the stream.
#ifndef DATA_AUGMENT_H
#define DATA_AUGMENT_H

#include "base/random.h"
#include "data/data.h"
#include "data/picture.h"

// Which part of the scaled picture evaluation takes: the centre, or the ten crops of torchvision's TenCrop: the corners
// (upper left, upper right, lower left, lower right), the centre, and these five mirrored.
#define CROP_CENTRE 4

// The whole picture scaled as settings->resize says, of which a width x height part is taken: view[height][width][channels].
bool augment_centre(const struct data_settings *settings, const struct picture *from, int crop, int width, int height, uint8_t *view,
                    struct error *error);
// A random part as settings->darknet_crop or area_crop says; the centre without either.
bool augment_random(const struct data_settings *settings, const struct picture *from, struct random_stream *stream, int width,
                    int height, uint8_t *view, struct error *error);
// Darknet's hue, saturation and exposure, on `pixels` pixels; grey ones know exposure alone.
void augment_colours(const struct data_settings *settings, struct random_stream *stream, uint8_t *view, size_t pixels, int channels);
// Whether the settings ask for any of these in training.
bool augment_is_geometric(const struct data_settings *settings);
bool augment_is_coloured(const struct data_settings *settings);

#endif

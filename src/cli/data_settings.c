#include "cli/data_settings.h"

#include <math.h>

static int first_int(int a, int b, int otherwise)
{
    return a != OPTION_UNSET ? a : b != OPTION_UNSET ? b : otherwise;
}

static float first_float(float a, float b, float otherwise)
{
    return !isnan(a) ? a : !isnan(b) ? b : otherwise;
}

static bool has_darknet_crop(const struct augmentation_options *o)
{
    return o->min_crop != OPTION_UNSET || o->max_crop != OPTION_UNSET || !isnan(o->aspect) || !isnan(o->angle);
}

static bool read_pair(const struct option_list *list, const char *name, float least, float most, float pair[2], struct error *error)
{
    pair[0] = list->count ? list->floats[0] : least;
    pair[1] = list->count > 1 ? list->floats[1] : most;
    if ((list->count == 0 || list->count == 2) && pair[0] <= pair[1]) return true;
    return error_set(error, "[data] %s: expected two numbers, the least first", name);
}

static bool set_crop(const struct data_options *o, const struct network *network, bool darknet, struct data_settings *s, struct error *error)
{
    const struct augmentation_options *data = &o->augmentation, *net = &network->settings.augmentation;
    int width = network->input_shape.width;
    s->area_crop = o->crop_scale.count > 0;
    if (o->crop_ratio.count && !s->area_crop) return error_set(error, "[data] crop_ratio: expected with crop_scale");
    if (s->area_crop && has_darknet_crop(data))
        return error_set(error, "[data] crop_scale: expected without min_crop, max_crop, aspect and angle, which are another random crop");
    s->darknet_crop = !s->area_crop && (has_darknet_crop(data) || has_darknet_crop(net) || (darknet && o->pad_crop == 0));
    s->min_crop = first_int(data->min_crop, net->min_crop, width);
    s->max_crop = first_int(data->max_crop, net->max_crop, 2 * width);
    s->aspect = first_float(data->aspect, net->aspect, 1);
    s->angle = first_float(data->angle, net->angle, 0);
    return read_pair(&o->crop_scale, "crop_scale", 0.08f, 1, s->crop_scale, error) &&
           read_pair(&o->crop_ratio, "crop_ratio", 0.75f, 4.0f / 3, s->crop_ratio, error);
}

static void set_darknet(const struct darknet_data *darknet, struct data_settings *s)
{
    s->type = data_source_find("list");
    s->darknet = true;
    s->train = darknet->train;
    s->valid = darknet->valid;
    s->labels = darknet->labels;
    s->classes = darknet->classes;
    s->more_names = true;
    if (darknet->names) s->names = darknet->names;
}

bool data_settings_make(const struct data_options *o, const struct network *network, const struct darknet_data *darknet,
                        struct data_settings *s, struct error *error)
{
    const struct augmentation_options *data = &o->augmentation, *net = &network->settings.augmentation;
    const struct shape in = network->input_shape;
    *s = (struct data_settings){.type = o->type, .path = o->path, .classes = o->classes, .names = o->names, .train = o->train,
                                .valid = o->valid, .labels = o->labels, .channels = in.channels, .height = in.height, .width = in.width,
                                .mean_count = o->mean.count, .std_count = o->std.count, .mean = o->mean.floats, .std = o->std.floats,
                                .pad_crop = o->pad_crop, .cutout = o->cutout, .resize = o->resize, .on_bad_image = o->on_bad_image,
                                .cache = o->cache, .threads = o->loader_threads};
    s->flip = first_int(data->flip, net->flip, darknet != NULL);
    s->hue = first_float(data->hue, net->hue, 0);
    s->saturation = first_float(data->saturation, net->saturation, 1);
    s->exposure = first_float(data->exposure, net->exposure, 1);
    if (darknet) set_darknet(darknet, s);
    if (o->crops != 1 && o->crops != 10) return error_set(error, "[data] crops=%d: expected 1 or 10", o->crops);
    return set_crop(o, network, darknet != NULL, s, error);
}

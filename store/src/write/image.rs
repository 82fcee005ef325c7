//! Changes of images.

use super::batch::{Done, Scope};
use crate::{change::Outcome, refuse};
use wharf_messages::{
    ImageName, Labels, Namespace, Refusal, Timestamp,
    event::Event,
    gc::Resource,
    image::{CreateImage, Image, UpdateImage},
    labels::{self, LabelPath},
};

impl Scope<'_, '_, '_> {
    pub fn create_image(&mut self, ns: &Namespace, call: &CreateImage) -> Done {
        if self.image(ns, &call.name)?.is_some() {
            return Err(Refusal::already_exists(format!("image {:?}", call.name)).into());
        }
        let image = self.fresh_image(call);
        self.write_image(ns, &image)?;
        self.tell(Event::ImageCreated { name: image.name.clone(), labels: image.labels.clone() });
        Ok(Outcome::Image(image))
    }

    pub fn put_image(&mut self, ns: &Namespace, call: &CreateImage) -> Done {
        let Some(old) = self.image(ns, &call.name)? else { return self.create_image(ns, call) };
        let image = Image { created_at: old.created_at, ..self.fresh_image(call) };
        self.write_updated(ns, image)
    }

    pub fn update_image(&mut self, ns: &Namespace, call: &UpdateImage) -> Done {
        let mut image = self.image(ns, &call.name)?.ok_or_else(|| refuse::no_image(&call.name))?;
        if call.mask.is_empty() {
            image.target = call.target.clone();
            labels::set_all(&mut image.labels, &call.labels);
        }
        for path in &call.mask {
            match (labels::path("labels", path), labels::path("annotations", path)) {
                (LabelPath::All, _) => labels::set_all(&mut image.labels, &call.labels),
                (LabelPath::One(key), _) => labels::set_one(&mut image.labels, &call.labels, key),
                (_, LabelPath::All) => labels::set_all(&mut image.target.annotations, &call.target.annotations),
                (_, LabelPath::One(key)) => {
                    labels::set_one(&mut image.target.annotations, &call.target.annotations, key);
                }
                _ if path == "target" => image.target = call.target.clone(),
                _ => {
                    let why = format!("cannot update {path:?} field on image {:?}", call.name);
                    return Err(Refusal::invalid(why).into());
                }
            }
        }
        image.updated_at = self.now;
        self.write_updated(ns, image)
    }

    pub fn delete_image(&mut self, ns: &Namespace, name: &ImageName) -> Done {
        let image = self.image(ns, name)?.ok_or_else(|| refuse::no_image(name))?;
        self.remove(|t| &mut t.images, (ns.as_str(), name.as_str()))?;
        self.tell(Event::ImageDeleted { name: name.clone() });
        Ok(Outcome::Image(image))
    }

    fn image(&mut self, ns: &Namespace, name: &ImageName) -> Done<Option<Image>> {
        self.get2(|t| &mut t.images, ns, name.as_str())
    }

    fn fresh_image(&self, call: &CreateImage) -> Image {
        let mut labels: Labels = call.labels.clone();
        labels::drop_empty(&mut labels);
        let now: Timestamp = self.now;
        Image { name: call.name.clone(), target: call.target.clone(), labels, created_at: now, updated_at: now }
    }

    fn write_updated(&mut self, ns: &Namespace, image: Image) -> Done {
        self.write_image(ns, &image)?;
        self.tell(Event::ImageUpdated { name: image.name.clone(), labels: image.labels.clone() });
        Ok(Outcome::Image(image))
    }

    fn write_image(&mut self, ns: &Namespace, image: &Image) -> Done<()> {
        labels::validate("image.Labels", &image.labels)?;
        if image.target.size_bytes == 0 {
            return Err(Refusal::invalid("target.Size must be greater than zero").into());
        }
        if image.target.media_type.is_empty() {
            return Err(Refusal::invalid("target.MediaType must be set").into());
        }
        self.note(ns, || Resource::Image(image.name.clone()));
        self.put2(|t| &mut t.images, ns, image.name.as_str(), image)
    }
}
